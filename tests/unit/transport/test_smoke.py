import asyncio
from pathlib import Path
from tests.unit.transport.rig import *
async def test_smoke(alice,bob):
    a,b=alice,bob
    echo=Echo()
    async with listening(a, echo) as served:
        s = await b.dialler().open(served.address, a.id)
        await s.send(b"hello"); assert await s.receive()==b"hello"
        await s.close()
        await echo.ended.wait()
        print(echo.ends, echo.peers==[b.id], served.listener.refusals)
        a.strangers.add(b.id)
        try:
            await b.dialler().open(served.address, a.id)
        except Exception as e: print(repr(e), e.detail)
        try:
            await b.dialler().open(served.address, b.id)
        except Exception as e: print(repr(e), e.detail)
        print(served.listener.refusals, served.listener.connections())
