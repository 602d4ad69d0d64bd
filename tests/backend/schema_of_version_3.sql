-- A database of schema version 3, as SQLite and PostgreSQL take it, with an account that was in use.

CREATE TABLE apps (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    api_key_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (api_key_hash)
);

CREATE TABLE changes (
    app_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    device_id TEXT NOT NULL,
    table_name TEXT NOT NULL,
    op TEXT NOT NULL,
    row_id TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    data TEXT,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, user_id, seq)
);
CREATE INDEX changes_by_table ON changes (app_id, user_id, table_name, seq);

CREATE TABLE codes (
    code_hash TEXT NOT NULL,
    app_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    challenge TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (code_hash)
);
CREATE INDEX ix_codes_expires_at ON codes (expires_at);
CREATE INDEX ix_codes_user_id ON codes (user_id);

CREATE TABLE devices (
    id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    platform TEXT NOT NULL,
    installation_id TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE UNIQUE INDEX devices_by_installation ON devices (app_id, user_id, installation_id) WHERE installation_id IS NOT NULL;
CREATE UNIQUE INDEX devices_by_name ON devices (app_id, user_id, name) WHERE installation_id IS NULL;

CREATE TABLE envelopes (
    app_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    envelope TEXT NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, user_id)
);

CREATE TABLE heads (
    app_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, user_id)
);
CREATE INDEX ix_heads_changed_at ON heads (changed_at);

CREATE TABLE meta (
    schema_version INTEGER NOT NULL,
    epoch TEXT NOT NULL
);

CREATE TABLE pushes (
    device_id TEXT NOT NULL,
    push_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    cursor BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (device_id, push_id)
);
CREATE INDEX ix_pushes_received_at ON pushes (received_at);

CREATE TABLE redirects (
    app_id TEXT NOT NULL,
    uri TEXT NOT NULL,
    PRIMARY KEY (app_id, uri)
);

CREATE TABLE roll_calls (
    id TEXT NOT NULL,
    process TEXT NOT NULL,
    asked_at BIGINT NOT NULL,
    told TEXT NOT NULL,
    PRIMARY KEY (id, process)
);

CREATE TABLE sessions (
    family_hash TEXT NOT NULL,
    app_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT,
    code_hash TEXT,
    current_hash TEXT NOT NULL,
    previous_hash TEXT,
    salt TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (family_hash),
    UNIQUE (code_hash)
);
CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);
CREATE INDEX sessions_by_user ON sessions (user_id, app_id, expires_at);

CREATE TABLE users (
    id TEXT NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    valid_since BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (email)
);

INSERT INTO meta VALUES (3, 'the epoch of before');
INSERT INTO apps VALUES ('notes', 'notes', 'hash', 1700000000000000);
INSERT INTO users VALUES ('alice', 'alice@example.org', 'hash', NULL, 1700000000000000);
INSERT INTO devices VALUES ('laptop', 'notes', 'alice', 'Laptop', 'linux', NULL, 1700000000000001);
INSERT INTO devices VALUES ('phone', 'notes', 'alice', 'Phone', 'ios', 'installation', 1700000000000002);
INSERT INTO heads VALUES ('notes', 'alice', 2, 1700000000000004);
INSERT INTO changes VALUES ('notes', 'alice', 1, 'laptop', 'tasks', 'INSERT', '1', '2023-11-14T22:13:20Z', 'one', 1700000000000003);
INSERT INTO changes VALUES ('notes', 'alice', 2, 'phone', 'tasks', 'UPDATE', '1', '2023-11-14T22:13:20Z', 'two', 1700000000000004);
