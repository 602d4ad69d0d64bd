"""OAuth2: the authorization code grant with PKCE, for apps that log in through the browser (docs/protocol.md).

/oauth/authorize ──▶ pages ──▶ authorization ──▶ clients, codes        what a person sees and decides
/oauth/token     ──▶ routes ──▶ authorization, and the sessions        what an app sends and is answered
"""
