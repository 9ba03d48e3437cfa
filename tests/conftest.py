import hypothesis

# The same examples in every run: a test that fails, fails for everybody.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("fixed")
