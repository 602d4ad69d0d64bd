"""The process and the server that runs it: gunicorn, gevent, threads, the log. Standard library only."""
