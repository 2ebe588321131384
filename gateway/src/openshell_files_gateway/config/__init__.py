"""The gateway's configuration: a TOML file and the environment, checked before the gateway starts.

* `tables`: every setting with its default and its range.
* `settings`: all settings, checked together.
* `names`: names of a setting in the file and in the environment.
* `consistency`: combinations of settings that are refused; `permissive_settings`: those that are logged.
* `loading`: reads file and environment into checked settings.
* `errors`: the error of a refused configuration, with the change that fixes it.
"""
