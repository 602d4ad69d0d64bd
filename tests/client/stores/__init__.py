"""Tests of the stores that `client.run` works on."""
