"""Takes every call through the same steps: id, authentication, authorization, errors, log."""
