"""Time the page in a headless Chromium: until it can be used, a parse, and the frames of the camera.

    apt-get install -y chromium chromium-driver npm
    make web                            # writes the network and fetches the runtime; Ctrl-C ends the server
    python -m benchmarks.page

A headless Chromium offers no WebGPU, so the network runs in WebAssembly.
"""

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from faceparse.errors import InputError, run_script
from web.serve import BUILT, FOLDER, describe_network, make_server

REPEATS = 5  # parses of the portrait
CAMERA_SECONDS = 20


def start_browser(video):
    """Return a headless Chromium before whose camera an MJPEG file plays."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    camera = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")
    for flag in ("headless=new", "no-sandbox", *camera, f"use-file-for-fake-video-capture={video}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def seconds_until(browser, condition):
    """Return the seconds until the page meets a condition in JavaScript."""
    start = time.perf_counter()
    wait = WebDriverWait(browser, timeout=60, poll_frequency=0.02)
    wait.until(lambda _: browser.execute_script(f"return {condition}"))
    return time.perf_counter() - start


def measure_camera(browser):
    """Return {image size, px: frames a second} of what the page says while its camera runs."""
    browser.find_element("id", "camera").click()
    rates = {}
    end = time.monotonic() + CAMERA_SECONDS
    while time.monotonic() < end:
        seconds_until(browser, "document.querySelector('#status').textContent.includes('frames')")
        words = browser.find_element("id", "status").text.split()
        rates[int(words[5])] = float(words[0])
        time.sleep(0.2)
    return rates


def measure(browser, address):
    start = time.perf_counter()
    browser.get(address)
    seconds_until(browser, "stage.dataset.parsed > 0")
    print(f"first label map after {time.perf_counter() - start:.2f} s, loading included")
    seconds = []
    for count in range(REPEATS):
        browser.find_element("id", "find").click()
        seconds.append(seconds_until(browser, f"stage.dataset.parsed > {1 + count}"))
    status = browser.find_element("id", "status").text
    print(f"head searched and parsed again in {median(seconds):.2f} s (median of {REPEATS}): {status}")
    for size, rate in sorted(measure_camera(browser).items()):
        print(f"camera at {size} px: {rate:.1f} frames a second")


def main():
    if not all((FOLDER / name).exists() for name in BUILT) or not shutil.which("chromedriver"):
        raise InputError("benchmarks.page: needs what `make web` makes, and Chromium with its chromedriver")
    describe_network(FOLDER / "face_parser.onnx")
    with tempfile.TemporaryDirectory() as folder, make_server(FOLDER, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        video = Path(folder) / "portrait.mjpeg"
        video.write_bytes(10 * (FOLDER / "sample.jpg").read_bytes())
        with start_browser(video) as browser:
            measure(browser, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.splitlines()[0]).parse_args()
    run_script(main)
