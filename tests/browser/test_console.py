"""The console's page in a real Chromium, over a real Kafka with lists made beforehand."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ops.kafka import LocalKafka
from ops.publisher import Publisher
from ops.topics import admin, create
from schemas import event, item, recommendation
from schemas.artefact import CHAMPION, Manifest, encode_manifest
from schemas.event import Event
from schemas.item import Item
from schemas.recommendation import Cause, Recommendation
from schemas.settings import Settings
from schemas.topics import topics

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH")

HOSTILE = '<img src=x onerror="document.title=1">'
USERS = ["anna", "bo", HOSTILE]
FILE = {"sha256": "0" * 64, "size": 1}
FILES = dict.fromkeys(("step.onnx", "catalogue.safetensors", "items.msgpack", "probes.safetensors"), FILE)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with LocalKafka() as kafka:
        found = Settings(_env_file=None, broker=kafka.bootstrap, partitions=1)
        with admin(kafka.bootstrap) as client:
            create(client, topics(found))
        yield found


@pytest.fixture(scope="module")
def address(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The console's, with traffic under way."""
    said = tmp_path_factory.mktemp("console") / "said"
    command = [sys.executable, "-m", "ops", "console", "--port", "0", "--broker", settings.broker, "--partitions", "1"]
    with said.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as console:
        wait_until(lambda: "Console at" in said.read_text())
        stopping = threading.Event()
        traffic = threading.Thread(target=send_traffic, args=(settings, stopping))
        traffic.start()
        yield said.read_text().split()[2].removesuffix(";")
        stopping.set()
        traffic.join()
        console.terminate()
        assert console.wait(DEADLINE_S) == 0


def send_traffic(settings: Settings, stopping: threading.Event) -> None:
    """Some 50 events a second, each with its list: the next event of the user is in every second one."""
    with Publisher(settings) as publisher:
        for number in range(30):
            publisher.send(settings.items, f"i{number}", item.encode(Item(f"{HOSTILE} {number}")))
        for number in count():
            if number == 100:
                manifest = Manifest(version=1, path="1", files=FILES, items=30, width=1, state=1)
                publisher.send(settings.models, CHAMPION, encode_manifest(manifest))
                publisher.flush()
            user_id = USERS[number % len(USERS)]
            round_ = number // len(USERS)
            sent = Event(user_id, f"i{round_ % 30}", 1)
            publisher.send(settings.interactions, user_id, event.encode(sent))
            items = [(f"i{(round_ + 1 + round_ % 2 + rank) % 30}", 1.0 - rank / 100) for rank in range(10)]
            list_ = Recommendation(user_id, items, 1, Cause.EVENT, 0, number, 1, None, 1, round(1000 * time.time()))
            publisher.send(settings.recommendations, user_id, recommendation.encode(list_))
            publisher.poll(0)
            if stopping.wait(0.02):
                break


class Page:
    """The page in a browser of its own."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self._address = address

    def open(self, width: int = 1440, *, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self._address)
        self.wait_for(lambda: self.text("status") == "Live")

    def text(self, element_id: str) -> str:
        return str(self.driver.find_element(By.ID, element_id).text)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def type(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def evaluate(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def wait_for(self, holds: Callable[[], bool]) -> None:
        wait_until(holds)


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """A browser; what it logged and loaded is judged at the end of each test."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield Page(driver, address)
        assert driver.get_log("browser") == []
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert loaded
        assert [url for url in loaded if not url.startswith(address)] == []
        assert driver.title == "Recommender console"
    finally:
        driver.quit()


def test_the_numbers_the_charts_and_the_stream_move(page: Page):
    page.open()
    page.wait_for(lambda: page.text("p50") not in ("–", "") and page.text("hit-rate") not in ("–", "0 %", ""))
    first = page.texts("#rows > li")
    page.wait_for(lambda: bool(page.texts("#rows > li")) and page.texts("#rows > li")[0] not in first)
    assert float(page.text("events-per-s").replace(",", "")) > 0
    page.wait_for(lambda: page.evaluate("document.querySelectorAll('.chart polyline').length") >= 6)
    line = "document.querySelector('#traffic-chart polyline').getAttribute('points')"
    before = page.evaluate(line)
    page.wait_for(lambda: page.evaluate(line) != before)
    page.wait_for(lambda: "now" in "".join(page.texts("#model-rows td")))
    page.wait_for(lambda: "swap" in "".join(page.texts("#traffic-chart .legend")))


def test_a_user_is_found_with_the_keyboard_alone(page: Page):
    page.open()
    page.type("/", "anna", Keys.ENTER)
    page.wait_for(lambda: page.text("user-title") == "User anna" and len(page.texts("#list > li")) == 10)
    assert page.evaluate("document.activeElement.id") == "user-title"  # where a screen reader goes on
    assert page.texts("#history > li")[0].startswith(HOSTILE)
    page.wait_for(lambda: "entered" in page.text("user-said") and "Left:" in page.text("left"))
    page.type(Keys.TAB, Keys.ENTER)
    page.wait_for(lambda: page.text("user-title") == "A user")
    assert page.evaluate("document.activeElement.id") == "find"


def test_a_user_is_chosen_from_the_stream_and_kept_in_the_address(page: Page):
    page.open()
    page.wait_for(lambda: HOSTILE in page.texts("#rows .who"))
    page.driver.find_element(By.ID, "pause").click()
    next(who for who in page.driver.find_elements(By.CSS_SELECTOR, "#rows .who") if who.text == HOSTILE).click()
    page.wait_for(lambda: page.text("user-title") == f"User {HOSTILE}")
    page.driver.refresh()
    page.wait_for(lambda: page.text("user-title") == f"User {HOSTILE}" and len(page.texts("#list > li")) == 10)
    assert page.evaluate("document.querySelectorAll('main img').length") == 0


def test_a_paused_stream_stands_still(page: Page):
    page.open()
    page.wait_for(lambda: len(page.texts("#rows > li")) > 3)
    pause = page.driver.find_element(By.ID, "pause")
    pause.click()
    assert pause.get_attribute("aria-pressed") == "true"
    rows, samples = page.texts("#rows > li"), page.evaluate("document.querySelector('.line').getAttribute('points')")
    page.wait_for(lambda: page.evaluate("document.querySelector('.line').getAttribute('points')") != samples)
    assert page.texts("#rows > li") == rows
    pause.click()
    page.wait_for(lambda: page.texts("#rows > li") != rows)


def test_dark_is_dark_and_light_is_light(page: Page):
    back = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    page.open(dark=True)
    assert page.evaluate(back) < 150
    page.open()
    assert page.evaluate(back) > 600


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_screen_scrolls_sideways(page: Page, width: int):
    page.open(width)
    page.type("/", "bo", Keys.ENTER)
    page.wait_for(lambda: len(page.texts("#list > li")) == 10)
    page.wait_for(lambda: len(page.texts("#rows > li")) > 10)
    assert page.evaluate("innerWidth") == width
    whole = "document.documentElement"
    assert page.evaluate(f"{whole}.scrollWidth") == page.evaluate(f"{whole}.clientWidth")


def test_everything_has_a_name_that_a_screen_reader_can_say(page: Page):
    page.open()
    page.type("/", "anna", Keys.ENTER)
    page.wait_for(lambda: len(page.texts("#list > li")) == 10)
    page.wait_for(lambda: all(label and "–" not in label for label in labels(page)))
    assert page.evaluate("document.querySelectorAll('header, main, footer, [role=search]').length") == 4
    nameless = "[...document.querySelectorAll('button, a')].filter((found) => !found.textContent.trim()).length"
    assert page.evaluate(nameless) == 0
    assert page.evaluate("document.getElementById('find').labels[0].textContent") == "User"
    assert page.evaluate("[...document.querySelectorAll('[role=status]')].length") == 2


def labels(page: Page) -> list[str | None]:
    found: list[str | None] = page.evaluate(
        "[...document.querySelectorAll('.chart svg')].slice(0, 3).map((chart) => chart.getAttribute('aria-label'))"
    )
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
