"""`python -m appliance.cli` is x0t."""

from appliance.cli.main import main

main()
