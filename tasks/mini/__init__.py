"""The embedded suite `mini`: small tasks shipped as bytes; a first run downloads nothing."""
