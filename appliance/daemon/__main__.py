"""`python -m appliance.daemon` is x0td."""

from appliance.daemon.main import main

main()
