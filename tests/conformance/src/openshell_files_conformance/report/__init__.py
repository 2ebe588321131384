"""Results as JSON, JUnit, Markdown and one HTML page."""
