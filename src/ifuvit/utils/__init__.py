"""Files, configurations, errors, devices, processes: what every part of the package uses."""
