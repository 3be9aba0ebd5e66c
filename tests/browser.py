"""A headless browser, driven through the pipe of Chromium's DevTools protocol."""

import base64
import json
import shutil
import subprocess

CHROMIUM = next(filter(shutil.which, ("chromium", "google-chrome")), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


class Browser:
    """One page in a browser of its own: `with Browser(folder) as page:`, `folder` being for its files.

    `errors` has what went wrong in the page so far, `requests` the addresses that it asked for.
    """

    def __init__(self, folder):
        self.folder, self.errors, self.requests = folder, [], []
        self._number, self._received = 0, b""

    def __enter__(self):
        pipes = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null'  # the protocol's are 3 and 4
        self._process = subprocess.Popen(
            ["sh", "-c", pipes, CHROMIUM, *FLAGS, f"--user-data-dir={self.folder}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._session = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()

    def call(self, method, **parameters):
        """The result of a method of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._received:
            part = self._process.stdout.read1()
            assert part, "the browser has ended"
            self._received += part
        text, _, self._received = self._received.partition(b"\0")
        message = json.loads(text)
        match message.get("method"), message.get("params"):
            case ("Runtime.exceptionThrown" | "Log.entryAdded" | "Runtime.consoleAPICalled"), told:
                self.errors.append(told)
            case "Network.requestWillBeSent", told:
                self.requests.append(told["request"]["url"])
        return message

    def open(self, path):
        """Show a file, and wait until it is loaded."""
        assert "errorText" not in self.call("Page.navigate", url=path.as_uri())
        while self.run("document.readyState") != "complete":
            pass

    def run(self, script):
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def resize(self, width, height=900):
        """Give the window a size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, path):
        """Write the window as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
