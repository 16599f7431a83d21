"""The trainer's configuration: one TOML file, with `a.b=value` over it.

`load` gives a checked `TrainerConfig`, or raises `ConfigError` with one line that names the key,
the file, and what was expected. The features, the actions and the rows of a sample are declared in
the pipeline's file (`configuration.declaration`) and are not repeated here.
"""

from configuration.reading import ConfigError as ConfigError
from trainer.config.load import load as load
from trainer.config.resolved import TrainerConfig as TrainerConfig
