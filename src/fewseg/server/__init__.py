"""The HTTP server: an API, a page to paint and correct, and the back ends of labelling tools.

Needs `pip install 'fewseg[serve]'`. `fewseg.server.app.create_app` puts it together.
"""
