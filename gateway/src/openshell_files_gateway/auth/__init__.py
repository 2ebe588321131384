"""Authentication and authorization of calls (AUT-1 to AUT-12).

* `principals`: the two kinds of caller.
* `authenticator`: from a call's metadata to its principal.
* `oidc`: users' tokens and the issuer's keys.
* `sandbox_tokens`: supervisors' tokens, which the gateway signs.
* `tokens`: form and signature of a token; `claims`: its issuer, audience, times and subject.
* `issuer_keys`: keys that verify tokens; `verified_tokens`: cache of verified tokens.
* `policy`, `roles`, `workspaces`: the methods and workspaces that a principal may use.
* `assembly`: makes all parts from the settings.
"""
