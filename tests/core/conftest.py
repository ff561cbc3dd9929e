"""One thread for every test here."""

from threads import one_thread  # noqa: F401  a fixture
