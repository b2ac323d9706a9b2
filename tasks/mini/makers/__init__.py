"""Who makes the examples of `mini`: a module for each kind of task, on the pictures."""
