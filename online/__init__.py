"""What stands beside an application: it logs what the join reads."""

from online.event_log import ActionLog, FeatureLog
from online.events import InvalidEventError
from online.sender import Counts

__all__ = ["ActionLog", "Counts", "FeatureLog", "InvalidEventError"]
