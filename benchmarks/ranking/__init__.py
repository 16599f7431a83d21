"""How fast the services beside an application are."""
