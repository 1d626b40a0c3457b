import threading
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from schemas.settings import Refused
from stream_app.web import application, serve


class Well:
    """Says that all is well."""

    def stuck(self) -> list[str]:
        return []

    def waits_for(self) -> list[str]:
        return []


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_serves_both_families_of_addresses(host: str, url: str):
    registry = CollectorRegistry()
    Gauge("shown", "", registry=registry).set(7)
    with (
        serve(application(Well(), registry), host, 0) as port,
        urllib.request.urlopen(f"http://{url}:{port}/metrics", timeout=10) as answer,
    ):
        assert "shown 7.0" in answer.read().decode()


def test_a_worker_that_fails_takes_its_server_with_it():
    def fail() -> None:
        with serve(lambda *_: [], "127.0.0.1", 0):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    for thread in threading.enumerate():
        if thread.name == "web":
            thread.join(10)
    assert "web" not in {thread.name for thread in threading.enumerate()}


def test_an_address_of_another_machine_is_refused():
    with (
        pytest.raises(Refused, match=r"web_host 192\.0\.2\.1, web_port 8000: "),
        serve(lambda *_: [], "192.0.2.1", 8000),
    ):
        pass
