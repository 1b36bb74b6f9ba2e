"""What `ifuvit report` is made of: results read from files, tables, plots and the page."""
