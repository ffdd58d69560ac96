"""Reports: tables, figures and one page, from a record of results alone."""
