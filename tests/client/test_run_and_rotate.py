"""`run` on a device whose key is rotated elsewhere: it queues, asks for the passphrase, and goes on."""

import threading
from pathlib import Path

from ..support.dict_store import DictStore
from ..support.service import Service
from ..support.wait import until


def test_run_goes_on_after_a_rotation(tmp_path: Path, quick_passphrases: None) -> None:
    service = Service(tmp_path)
    laptop, phone = (service.client(name=name, encrypt=True) for name in ("laptop", "phone"))
    for device in laptop, phone:
        device.setup_encryption("first")
    stores = {laptop: DictStore(), phone: DictStore()}
    states: list[str] = []
    threads = [
        threading.Thread(target=laptop.run, args=(stores[laptop],)),
        threading.Thread(target=lambda: phone.run(stores[phone], on_state=lambda s, r: states.append(str(s)))),
    ]
    for t in threads:
        t.start()
    stores[laptop].edit("tasks", "1", "old")
    assert until(lambda: stores[phone].rows() == {("tasks", "1"): "old"}, 30), states
    laptop.rotate_master_key("first", "second")
    stores[laptop].edit("tasks", "2", "new")
    assert until(lambda: "needs_passphrase" in states, 30), states
    stores[phone].edit("tasks", "3", "queued")
    phone.setup_encryption("second")
    everything = {("tasks", "1"): "old", ("tasks", "2"): "new", ("tasks", "3"): "queued"}
    assert until(lambda: stores[laptop].rows() == stores[phone].rows() == everything, 60), (
        states,
        stores[laptop].rows(),
        stores[phone].rows(),
    )
    service.close()
    for t in threads:
        t.join(10)
        assert not t.is_alive()
