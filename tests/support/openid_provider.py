"""A real OpenID provider on loopback (npm's ``oidc-provider``), as itself or in the shape of Globus Auth.

It is installed once, by the versions in its lock file, into ``.cache`` beside the tests. Without npm, or
without network at the first time, tests that want it are skipped; where peers are required they fail.

A conftest imports the fixtures `openid` and `globus_auth` from here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import html.parser
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests

SOURCE = Path(__file__).with_name("oidc_provider")
CACHE = Path(__file__).resolve().parents[2] / ".cache"
LIMIT_S = 30.0

#: Ids of the gateway's registration and of the users' program.
SERVICE = "c42c0dac-0a52-408e-a04f-5d31bfe0aef8"
SECRET = "gateway-secret"
CLIENT = "5a2c6be1-90a2-47a4-9a3f-3c1f1f5a6f11"
SCOPE = f"https://auth.globus.org/scopes/{SERVICE}/scistream"
#: What tokens are for: signed ones, and others that have to be asked about.
AUDIENCE = "https://gateway.example/"
OPAQUE_AUDIENCE = "https://opaque.example/"

PEOPLE: dict[str, dict[str, Any]] = {
    "11111111-aaaa-4aaa-8aaa-000000000001": {
        "username": "alice@anl.gov",
        "password": "wonderland",
        "email": "alice@anl.gov",
        "groups": ["beamline-2bm"],
        "identities": [
            {"sub": "11111111-aaaa-4aaa-8aaa-000000000001", "username": "alice@anl.gov"},
            {"sub": "11111111-aaaa-4aaa-8aaa-00000000000f", "username": "alice@orcid.org"},
        ],
    },
    "22222222-bbbb-4bbb-8bbb-000000000002": {
        "username": "bob@ornl.gov",
        "password": "builder",
        "email": "bob@ornl.gov",
        "groups": [],
        "identities": [{"sub": "22222222-bbbb-4bbb-8bbb-000000000002", "username": "bob@ornl.gov"}],
    },
}
ALICE, BOB = PEOPLE


def unavailable(reason: str) -> None:
    """Skip the test, or fail it where peers are required."""
    (pytest.fail if os.environ.get("MINISTREAM_REQUIRE_PEERS") == "1" else pytest.skip)(reason)


def installed() -> Path:
    """Return the folder with the provider and all that it needs."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            unavailable(f"{program} is not installed")
    files = sorted(SOURCE.iterdir())
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()[:16]
    folder = CACHE / f"oidc-provider-{digest}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "oidc-provider.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for one in files:
                shutil.copy(one, folder)
            result = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            if result.returncode:
                unavailable(f"npm cannot install the provider: {result.stderr[-500:]}")
            (folder / "complete").touch()
            for other in CACHE.glob("oidc-provider-*"):
                if other != folder:
                    shutil.rmtree(other)
    return folder


@dataclass
class ProviderProcess:
    """A provider that runs, and what a test changes of it."""

    options: dict[str, Any]
    log: Path
    issuer: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on a free port."""
        folder = installed()
        options = {
            "people": PEOPLE,
            "service": SERVICE,
            "secret": SECRET,
            "client": CLIENT,
            **self.options,
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                ["node", "server.mjs"],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            pytest.fail(f"the provider did not start: {self.log.read_text()[-2000:]}")
        self.issuer = json.loads(line)["issuer"]

    def stop(self) -> None:
        """Stop it; nobody listens at its address then."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(LIMIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process = None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Let nobody listen at its address for a while."""
        self._order("away")
        try:
            yield
        finally:
            self._order("back")

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Let it take calls and answer none for a while."""
        self.tell("hang", on=True)
        try:
            yield
        finally:
            self.tell("hang", on=False)

    def _order(self, command: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == command, (answer, self.process.poll(), self.log.read_text()[-2000:])

    def tell(self, command: str, **values: Any) -> Any:
        """Have it do one of the things that only a test wants."""
        answer = requests.post(f"{self.issuer}/test/{command}", json=values, timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def token(self, **values: Any) -> str:
        """Return an access token as a login would make it: sub, scope, resource, ttl."""
        return str(self.tell("token", **{"sub": ALICE, "scope": "scistream", **values})["token"])

    def sign(self, claims: dict[str, Any], **values: Any) -> str:
        """Return `claims`, signed with the provider's key."""
        return str(self.tell("sign", claims=claims, **values)["token"])

    def count(self, path: str) -> int:
        """Return how often `path` has been asked for."""
        return int(self.tell("counts").get(path, 0))


@contextlib.contextmanager
def providing(log: Path, **options: Any) -> Iterator[ProviderProcess]:
    """Run a provider."""
    made = ProviderProcess(options, log)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def openid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    """An OpenID provider for all tests of a module."""
    with providing(tmp_path_factory.mktemp("openid") / "log") as made:
        yield made


@pytest.fixture(scope="module")
def globus_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProviderProcess]:
    """The same in the shape of Globus Auth; the SDK finds it by ``GLOBUS_SDK_SERVICE_URL_AUTH``."""
    with providing(
        tmp_path_factory.mktemp("globus") / "log", globus=True, scopes=[SCOPE, f"{SCOPE}_of_another_kind"]
    ) as made:
        yield made


class Page(html.parser.HTMLParser):
    """The first form of a page, and its texts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self._forms = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        about = dict(attributes)
        self._id = about.get("id")
        if tag == "form":
            self._forms += 1
            if self._forms == 1:
                self.action = about.get("action")
        elif tag == "input" and about.get("name") and self._forms == 1:
            self.values[str(about["name"])] = about.get("value") or ""

    def handle_data(self, data: str) -> None:
        if self._id and data.strip():
            self.texts.setdefault(self._id, data.strip())


class Person:
    """Somebody with a browser, who signs in and allows what is asked for."""

    def __init__(self, sub: str = ALICE, *, password: str | None = None, denies: bool = False) -> None:
        self._about = PEOPLE[sub]
        self._password = password or self._about["password"]
        self._denies = denies
        self._session = requests.Session()

    def visit(self, url: str, user_code: str | None = None) -> Page | str:
        """Go through all pages; return the last one, or where the browser is sent away to."""
        origin = urlsplit(url)[:2]
        answer = self._session.get(url, allow_redirects=False, timeout=LIMIT_S)
        for _ in range(30):
            if answer.is_redirect:
                url = urljoin(url, answer.headers["location"])
                if urlsplit(url)[:2] != origin:
                    return url
                answer = self._session.get(url, allow_redirects=False, timeout=LIMIT_S)
                continue
            assert answer.status_code < 500, answer.text
            page = Page(answer.text)
            if page.action is None or "wrong" in page.texts:
                return page
            values = dict(page.values)
            if "password" in values:
                values |= {"login": self._about["username"], "password": self._password}
            if "user_code" in values and not values["user_code"]:
                values["user_code"] = user_code or ""
            target = page.action
            if self._denies and target.endswith("/confirm"):
                target = target.removesuffix("confirm") + "abort"
            url = urljoin(url, target)
            answer = self._session.post(url, data=values, allow_redirects=False, timeout=LIMIT_S)
        raise AssertionError(f"no end of pages at {url}")
