"""What it costs to find out who is asking: time per call, for each authenticator, cached and not.

The providers are real ones on loopback (npm's oidc-provider, as itself and in the shape of Globus Auth): what
is not cached is a question to them, and takes what they take; over a real network a round trip comes on top.
Needs node and npm.

    python benchmarks/authentication.py
    python benchmarks/authentication.py --quick --json authentication.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from scistream.auth.base import Authenticator, Credentials
from scistream.auth.globus import Globus
from scistream.auth.mtls import ClientCertificates
from scistream.auth.oidc import OpenIDConnect
from scistream.auth.provider import Provider
from scistream.auth.shared_key import SharedKey, create_token
from support.authorities import Authority
from support.openid_provider import (
    AUDIENCE,
    OPAQUE_AUDIENCE,
    SCOPE,
    SECRET,
    SERVICE,
    ProviderProcess,
    providing,
)

Case = tuple[str, Authenticator, Callable[[], Credentials], int]


def with_token(token: str) -> Credentials:
    """Return a caller with that token."""
    return Credentials(token, "ipv4:192.0.2.1:4")


def cases(folder: Path, openid: ProviderProcess, globus_auth: ProviderProcess, calls: int) -> Iterator[Case]:
    """Yield name, authenticator, what makes credentials, and how many calls are made."""
    auth_file = folder / "tokens.toml"
    own = with_token(create_token("alice", auth_file))
    for number in range(99):
        create_token(f"user{number}", auth_file)
    yield "shared_key_of_100", SharedKey.from_settings({"file": str(auth_file)}), lambda: own, calls

    authority = Authority()
    proven = Credentials(None, "ipv4:192.0.2.1:4", authority.issue("alice", email="alice@anl.gov")[0])
    yield "mtls", ClientCertificates(authority.pem), lambda: proven, calls

    provider = Provider(openid.issuer)
    signed = with_token(openid.token(resource=AUDIENCE))
    verifying = OpenIDConnect(provider, audience=AUDIENCE, scope="scistream")
    yield "oidc_signed", verifying, lambda: signed, calls

    asking = OpenIDConnect(provider, audience=OPAQUE_AUDIENCE, scope="scistream", client=(SERVICE, SECRET))
    opaque = with_token(openid.token(resource=OPAQUE_AUDIENCE))
    yield "oidc_asked_cached", asking, lambda: opaque, calls
    few = max(20, calls // 20)
    others = iter([with_token(openid.token(resource=OPAQUE_AUDIENCE)) for _ in range(few + 1)])
    yield "oidc_asked", asking, lambda: next(others), few

    globus = Globus(SERVICE, SECRET)
    known = with_token(globus_auth.token(scope=SCOPE))
    yield "globus_cached", globus, lambda: known, calls
    unknown = iter([with_token(globus_auth.token(scope=SCOPE)) for _ in range(few + 1)])
    yield "globus", globus, lambda: next(unknown), few


async def measure(authenticator: Authenticator, make: Callable[[], Credentials], calls: int) -> list[float]:
    """Return how long each call takes, in s; the first one is not counted."""
    await authenticator.authenticate(make())
    taken = []
    for credentials in [make() for _ in range(calls)]:
        begin_s = time.perf_counter()
        await authenticator.authenticate(credentials)
        taken.append(time.perf_counter() - begin_s)
    return taken


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    calls = 400 if options.quick else 4_000
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        openid = stack.enter_context(providing(folder / "openid.log"))
        globus_auth = stack.enter_context(providing(folder / "globus.log", globus=True, scopes=[SCOPE]))
        os.environ["GLOBUS_SDK_SERVICE_URL_AUTH"] = f"{globus_auth.issuer}/"
        print(f"{'':20}{'median':>10}{'99 %':>10}   of calls")
        for name, authenticator, make, count in cases(folder, openid, globus_auth, calls):
            taken = sorted(asyncio.run(measure(authenticator, make, count)))
            median_us = statistics.median(taken) * 1e6
            p99_us = taken[int(len(taken) * 0.99)] * 1e6
            figures |= {f"{name}_median_us": round(median_us, 2), f"{name}_p99_us": round(p99_us, 2)}
            print(f"{name:20}{median_us:7.0f} us{p99_us:7.0f} us   {count}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
