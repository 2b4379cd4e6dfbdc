"""A process that changes the firewall from OLD to NEW and is killed at a step.

`python -m tests.faults.firewall_child STEP before|after [damage]`; step -1 lets it live, and the exit status is the
number of steps. With `damage` somebody inserts a rule before, so that the whole table is written.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

from appliance.netstack.nft.firewall import NftFirewall
from tests.faults.firewall_faults import FaultySocket, Plan, dies
from tests.firewall_rig import ECHO, FAR, HIGH, HOST, LOW, MEMBERS, NOBODY, OTHER, TABLE, a_filter

OLD = a_filter(inbound=[(MEMBERS, LOW)], outbound=[(MEMBERS, HIGH), (MEMBERS, ECHO)])
OTHERS = {FAR: NOBODY, OTHER: MEMBERS, HOST: MEMBERS}
NEW = a_filter(
    inbound=[(MEMBERS, HIGH)], outbound=[(MEMBERS, HIGH)], peers={FAR: NOBODY, OTHER: MEMBERS, HOST: MEMBERS}
)


async def main(step: int, *, before: bool, damaged: bool) -> None:
    plan = Plan()
    firewall = NftFirewall(TABLE, connect=lambda: FaultySocket.made(plan))
    await firewall.prepare()
    if damaged:
        command = ["nft", "insert", "rule", "inet", TABLE.name, "untracked", "accept"]
        await asyncio.to_thread(subprocess.run, command, check=True)
    plan.arm(dies(before=before), lambda at: at == step)
    await firewall.apply(NEW)
    await firewall.close()
    sys.exit(plan.count)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), before=sys.argv[2] == "before", damaged="damage" in sys.argv))
