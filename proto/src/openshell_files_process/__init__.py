"""What the programs of this project share as processes: log output, signals, standard streams, a secret in a file."""
