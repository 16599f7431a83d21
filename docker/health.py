"""Whether this container works: each port or port/path of the command line answers on loopback.

    python /health.py 9249 8081/overview

For HEALTHCHECK, which has no other HTTP client in these images. Ends with 1 when one does not
answer with 200 within three seconds.
"""

from __future__ import annotations

import sys
import urllib.request


def main(targets: list[str]) -> int:
    """Ask each of them; returns the exit code."""
    # Loopback: a proxy of the environment has nothing to do with it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for target in targets:
        port, _, path = target.partition("/")
        try:
            opener.open(f"http://127.0.0.1:{port}/{path}", timeout=3).close()
        except OSError as error:
            print(f"{target}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
