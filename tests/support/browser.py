"""A headless Chromium that a test drives through a pipe, without a driver or a library for it."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """A page in Chromium; `problems` is what its console complained about.

    Args:
        folder: where the browser keeps its profile.
        url: the page to open.
    """

    def __init__(self, folder, url):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is installed")
        commands, self.commands = os.pipe()
        self.replies, replies = os.pipe()
        # Numbers that do not collide with 3 and 4, which Chromium reads from and writes to.
        inherited = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (commands, replies)]
        script = f'exec "$@" 3<&{inherited[0]} 4>&{inherited[1]}'
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=900,1200",
            f"--user-data-dir={folder}",
            "--remote-debugging-pipe",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *options],
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (commands, replies, *inherited):
            os.close(fd)
        self.received = b""
        self.number = 0
        self.session = {}
        self.problems = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.wait_for('location.href !== "about:blank" && document.readyState === "complete"')

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.replies)

    def call(self, method, **params):
        """Have a command of the DevTools protocol carried out, and note what is reported."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": params} | self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.problems.append(message["params"])

    def message(self):
        until = time.monotonic() + 60
        while b"\0" not in self.received:
            left = until - time.monotonic()
            assert left > 0 and select.select([self.replies], [], [], left)[0], "no reply"
            received = os.read(self.replies, 1 << 16)
            assert received, "Chromium has ended"
            self.received += received
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression):
        """Wait until an expression is true, and give its value."""
        until = time.monotonic() + 30
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < until, f"still not: {expression}"
            time.sleep(0.05)
        return value
