"""How long to wait for a label: headless runs over windows, policies, exposure and sampling."""
