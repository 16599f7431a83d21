"""Tests of the services beside an application. They run in the trainer's environment."""
