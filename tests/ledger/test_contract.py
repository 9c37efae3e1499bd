"""The contract, for each kind of ledger that ships."""

import pytest

from tests.ledger.contract import *  # noqa: F403
from tests.ledger.contract_reports import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("ledger_kind")
