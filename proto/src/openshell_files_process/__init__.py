"""Code that the programs share as processes: tasks, log output, signals, standard streams, the agent's secret."""
