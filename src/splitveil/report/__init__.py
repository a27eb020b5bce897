"""From the records of runs to a page that opens offline, and to rows for the console; never touches a model."""
