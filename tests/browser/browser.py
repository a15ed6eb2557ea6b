"""What the tests ask of a browser, through Selenium and, where that has no word for it, the DevTools protocol."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from selenium import webdriver

PHONE_WIDTH, DESK_WIDTH = 360, 1100
Scheme = Literal["light", "dark"]


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def show(self, page: str, width: int = DESK_WIDTH, scheme: Scheme = "light") -> None:
        """Load a page from a file, as it would be opened from a disk."""
        file = self.folder / "page.html"
        file.write_text(page, encoding="utf-8")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.driver.get_log("browser")  # empties it
        self.driver.get_log("performance")
        self.driver.get(file.as_uri())

    def run(self, script: str) -> Any:
        """Return what JavaScript returns; the tests' own, since pages have none."""
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """What the console has said since the page was asked for."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since then, that of the page itself included."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def printed(self) -> list[str]:
        """Text of each page on paper."""
        paper = self.folder / "page.pdf"
        found = self.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": False})
        paper.write_bytes(base64.b64decode(found["data"]))
        text = subprocess.run(["pdftotext", "-layout", paper, "-"], check=True, capture_output=True, text=True).stdout
        return text.split("\f")[:-1]


@contextmanager
def started(folder: Path) -> Iterator[Browser]:
    """Start a browser that cannot reach anything, and stop it."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # --no-sandbox: in containers and as root there is no other way, and it shows nothing but the tests' own pages
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions", {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        )
        yield Browser(driver, folder)
    finally:
        driver.quit()
