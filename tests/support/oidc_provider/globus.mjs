// What Globus Auth does otherwise than an OpenID provider: its routes, and one token for each resource server.

export const ROUTES = {
  authorization: '/v2/oauth2/authorize',
  token: '/v2/oauth2/token',
  introspection: '/v2/oauth2/token/introspect',
  revocation: '/v2/oauth2/token/revoke',
  userinfo: '/v2/oauth2/userinfo',
  jwks: '/jwk.json',
  device_authorization: '/v2/oauth2/device',
  code_verification: '/v2/web/device',
};

const AUTH = 'auth.globus.org';

/** The resource servers that `scopes` belong to, each with its scopes. */
function byServer(scopes, service) {
  const servers = new Map();
  for (const scope of scopes) {
    const server = scope.startsWith('https://auth.globus.org/scopes/') ? scope.split('/')[4] : AUTH;
    servers.set(server, [...(servers.get(server) ?? []), scope]);
  }
  // the service first, as the SDK takes the first for the token that was asked for
  return [...servers].sort(([one]) => (one === service ? -1 : 1));
}

export function globusAnswers(provider, service, people) {
  return async (ctx, next) => {
    await next();
    if (ctx.status !== 200 || !ctx.body) return;
    if (ctx.path === ROUTES.token) {
      await tokens(ctx);
    } else if (ctx.path === ROUTES.introspection && ctx.body.active) {
      describe(ctx.body);
    }
  };

  async function tokens(ctx) {
    const { AccessToken: access, RefreshToken: refresh } = ctx.oidc.entities;
    const servers = byServer((ctx.body.scope ?? '').split(' ').filter(Boolean), service);
    if (ctx.oidc.params.grant_type === 'refresh_token') {
      ctx.body.resource_server = servers[0][0];
      ctx.body.other_tokens = [];
      return;
    }
    // the stock tokens carry all scopes: each server gets its own instead
    const made = [];
    for (const [server, scopes] of servers) {
      const about = {
        accountId: access.accountId,
        client: access.client ?? ctx.oidc.client,
        grantId: access.grantId,
        gty: access.gty,
        scope: scopes.join(' '),
        sessionUid: access.sessionUid,
      };
      made.push({
        access_token: await new provider.AccessToken(about).save(),
        refresh_token: await new provider.RefreshToken(about).save(),
        scope: scopes.join(' '),
        resource_server: server,
        expires_in: ctx.body.expires_in,
        token_type: 'Bearer',
      });
    }
    await access.destroy();
    if (refresh) await refresh.destroy();
    const { id_token: idToken, state } = ctx.body;
    ctx.body = { ...made[0], other_tokens: made.slice(1), id_token: idToken, state };
  }

  function describe(body) {
    const [[server]] = byServer((body.scope ?? '').split(' ').filter(Boolean), service);
    const person = people[body.sub];
    body.aud = [server];
    body.username = person.username;
    body.email = person.email;
    body.identity_set = person.identities.map(({ sub }) => sub);
    body.identity_set_detail = person.identities;
  }
}
