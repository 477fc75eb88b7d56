"""The real gateway process over the contract with the scratch service: `python -m tests.support.gateway`."""

from __future__ import annotations

import sys

from gateway.__main__ import main
from mistudio_rpc import contract
from tests.support.scratch import scratch_contract

if __name__ == "__main__":
    extended = scratch_contract()
    contract.installed = lambda: extended  # type: ignore[assignment]
    sys.exit(main())
