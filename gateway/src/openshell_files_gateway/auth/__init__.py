"""Who is calling, and what they may do (AUT-1 to AUT-5).

* `principals`: the two kinds of caller.
* `authenticator`: from the call's metadata to a principal.
* `oidc`: users' tokens; `issuer_keys`, `jwks`, `issuer_documents`: the issuer's keys.
* `sandbox_tokens`, `signing_key`: supervisors' tokens, which the gateway signs.
* `tokens`, `claims`: the parts of a token; `verified_tokens`: those that were checked.
* `policy`, `roles`, `workspaces`: what a principal may do.
* `assembly`: all of it from the settings.
"""
