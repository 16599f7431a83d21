"""The closed loop in one process, in event time: the pure join core and the trainer, no services.

It gives the samples that the job gives.
"""
