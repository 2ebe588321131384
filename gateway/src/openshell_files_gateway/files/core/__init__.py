"""Rules of the file methods: counting the content that passes."""
