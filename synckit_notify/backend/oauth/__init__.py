"""OAuth2: the authorization code grant with PKCE, for apps that log in through the browser (docs/protocol.md).

/oauth/authorize ──▶ pages ──▶ authorization ──▶ clients, codes        the log-in and consent pages
/oauth/token     ──▶ routes ──▶ authorization, sessions                the requests of an app
"""
