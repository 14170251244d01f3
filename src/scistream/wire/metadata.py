"""Names of metadata entries, beside the messages of scistream.proto."""

from __future__ import annotations

#: To a control server: the caller's token, or the credential of a session's application, as it is.
AUTHORIZATION = "authorization"

#: From a control server, in the initial metadata of REQ: the credential of the session's application.
APPLICATION_CREDENTIAL = "scistream-application-credential"
