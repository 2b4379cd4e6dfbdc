"""What carries a flow is lost, and the flow comes back with nobody acting; `./test bench heal` says how soon."""

from __future__ import annotations

import pytest

from tests.bench.bench_heal import UPLINKS, Loss, away_s, cable_breaks, daemon_dies, founder_dies, host_dies

pytestmark = pytest.mark.timeout(180)  # five daemons come up, and the flow is watched for 8 s


@pytest.mark.parametrize("loss", [host_dies, cable_breaks, daemon_dies, founder_dies])
def test_a_flow_comes_back_after_a_loss_with_nobody_acting(root: None, loss: Loss) -> None:
    assert away_s(UPLINKS, loss) > 0  # raises where the flow stays away
