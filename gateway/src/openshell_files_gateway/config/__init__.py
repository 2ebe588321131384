"""The gateway's configuration: a TOML file and the environment, checked before anything starts.

* `tables`: every setting, its default and its limits.
* `settings`: all of them, fitting together.
* `names`: what a setting is called in the file and in the environment.
* `consistency`: what settings must not be together.
* `loading`: from file and environment to checked settings.
* `errors`: how a refusal says what to change.
"""
