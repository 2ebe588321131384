"""Cases for a supervisor and its file agent."""
