"""Pages in headless Chromium, spoken to over a pipe: do they fit on a screen and on a phone?

No package is needed but the browser itself, `chromium` on the path, which .ci/full installs.
"""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile

import drawn
import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
# In pixels of the page: what sticks out of its right edge, and what scrolls in a box of its own.
MEASURE = """
(() => {
  const width = document.documentElement.clientWidth;
  const all = [...document.body.querySelectorAll("*")].filter(e => !e.closest("details"));
  const told = e => e.tagName + ": " + e.textContent.slice(0, 40);
  const small = [];
  for (const e of all) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (own && parseFloat(getComputedStyle(e).fontSize) < 12) small.push(told(e));
  }
  return {
    width: width,
    page: document.documentElement.scrollWidth,
    out: all.filter(e => e.getBoundingClientRect().right > width + 1).map(told),
    scrolling: all.filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth &&
      getComputedStyle(e).overflowX !== "visible").map(told),
    small: small,
    images: [...document.images].map(i => ({
      shown: i.getBoundingClientRect().width,
      natural: i.naturalWidth,
      name: i.alt.slice(0, 40),
    })),
    colors: [getComputedStyle(document.body).color,
             getComputedStyle(document.body).backgroundColor],
  };
})()
"""


class Browser:
    """One page of a running browser."""

    def __init__(self, write, read):
        self._write, self._read, self._count, self._session = write, read, 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def call(self, method, **params):
        """The result of a method of Chromium's protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self):
        message = bytearray()
        while (byte := self._read.read1(1 << 20)) and not byte.endswith(b"\0"):
            message += byte
        assert byte, "the browser has ended"
        # Several messages may come at once; only the answer that is waited for counts.
        found = (message + byte).rstrip(b"\0").split(b"\0")
        answers = [one for one in found if json.loads(one).get("id") == self._count]
        return (answers or found)[-1]

    def open(self, path, *, width, dark=False):
        """Shows a file on a screen of so many pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        metrics = dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        loaded = "new Promise(f => document.readyState == 'complete' ? f() : (window.onload = f))"
        self.evaluate(loaded)
        self.evaluate("Promise.all([...document.images].map(i => i.decode()))")

    def evaluate(self, expression):
        """What an expression in the page gives."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        return found["result"].get("value")

    def picture(self, path):
        """Writes the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def check(*pages):
    """Nothing of the pages is out of sight or too small to read, by day and by night."""
    with started() as page:
        for path in pages:
            seen = set()
            for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
                page.open(path, width=width, dark=dark)
                found = page.evaluate(MEASURE)
                told = f"{path} at {width}, dark: {dark}: {found}"
                assert found["width"] == found["page"] == width, told
                assert not found["out"] and not found["small"], told
                # What scrolls in itself has a cue; on a phone nothing has to.
                assert width > 390 or not found["scrolling"], told
                for image in found["images"]:  # the pixels of its smallest letters
                    scale = image["shown"] / image["natural"]
                    assert scale * 130 / 72 * drawn.SMALLEST >= 8.5, told
                seen.add(tuple(found["colors"]))
            assert len(seen) == 2, seen


@contextlib.contextmanager
def started():
    """A Browser; the test is skipped where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    # Out of the way of 3 and 4, which these become in the browser.
    there = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (from_us, to_us)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = (*FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe")
        process = subprocess.Popen(  # it reads from 3 and writes to 4
            ["bash", "-c", f'exec "$@" 3<&{there[0]} 4>&{there[1]}', "bash", chromium, *flags],
            pass_fds=there,
            stderr=subprocess.DEVNULL,
        )
        for end in (from_us, to_us, *there):
            os.close(end)
        with open(to_browser, "wb") as write, open(from_browser, "rb") as read:
            try:
                yield Browser(write, read)
            finally:
                process.terminate()
                process.wait(20)
