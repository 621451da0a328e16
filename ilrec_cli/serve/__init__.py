"""The HTTP side of `ilrec serve`: requests in, answers out. It knows neither models nor artifacts."""
