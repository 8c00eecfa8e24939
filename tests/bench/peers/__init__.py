"""Other people's models of the same shape, built from our configurations, with the settings their own documentation names."""
