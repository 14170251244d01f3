// An OpenID provider on a free port of loopback. Its settings are the first line of stdin (JSON), its address is
// the first of stdout. It ends when stdin is closed, so that none is left behind; 'away' and 'back' there close
// its port and open it again.
//
// Besides the provider there is /test/…, by which a test changes what it does: rotates keys, makes tokens, lets
// it hang.

import { once } from 'node:events';
import http from 'node:http';
import readline from 'node:readline';

import * as jose from 'jose';
import Provider from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';

import { ROUTES, globusAnswers } from './globus.mjs';
import * as pages from './pages.mjs';

console.info = console.error; // stdout is for answers
const lines = readline.createInterface({ input: process.stdin });
const [line] = await once(lines, 'line');
lines.on('close', () => process.exit(0));
const settings = { accessTtl: 3600, globus: false, ...JSON.parse(line) };
const { people, service, secret, client: publicClient } = settings;

const server = http.createServer();
server.listen(settings.port ?? 0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const counts = {};
// what has been issued stays when keys are rotated, which takes a new provider
const adapter = createMemoryAdapter();
let hanging = false;
let number = 0;
let keys = [];
let provider;
let handle;

async function newKeys() {
  number += 1;
  const made = [];
  // the Globus SDK takes the first one, which has to be RSA
  for (const [alg, curve] of [['RS512'], ['ES256', 'P-256']]) {
    const { privateKey } = await jose.generateKeyPair(alg, { extractable: true, crv: curve });
    made.push({ ...await jose.exportJWK(privateKey), kid: `${alg}-${number}`, use: 'sig' });
  }
  return made;
}

function resourceServer(indicator) {
  return {
    scope: 'scistream other',
    audience: indicator,
    accessTokenTTL: settings.accessTtl,
    accessTokenFormat: indicator.includes('opaque') ? 'opaque' : 'jwt',
    jwt: { sign: { alg: 'ES256' } },
  };
}

const claimsOf = (sub) => {
  const { username, email, groups } = people[sub];
  return { sub, preferred_username: username, email, email_verified: true, groups };
};

async function make() {
  provider = new Provider(issuer, {
    adapter,
    jwks: { keys },
    clients: [
      {
        client_id: publicClient,
        token_endpoint_auth_method: 'none',
        application_type: 'native',
        grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
        response_types: ['code'],
        redirect_uris: settings.globus ? [`${issuer}/v2/web/auth-code`] : ['http://127.0.0.1/callback'],
      },
      { client_id: service, client_secret: secret, grant_types: [], response_types: [], redirect_uris: [] },
    ],
    clientDefaults: { id_token_signed_response_alg: 'RS512' },
    enabledJWA: { idTokenSigningAlgValues: ['RS512', 'ES256'] },
    routes: settings.globus ? ROUTES : {},
    scopes: ['openid', 'email', 'profile', 'offline_access', ...(settings.scopes ?? [])],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['preferred_username', 'groups'] },
    conformIdTokenClaims: false,
    extraParams: ['access_type', 'prefill_named_grant'],
    pkce: { required: (_, client) => client.clientAuthMethod === 'none' },
    rotateRefreshToken: !settings.globus,
    issueRefreshToken: (_, client, code) => settings.globus || code.scopes.has('offline_access'),
    findAccount: (_, sub) => people[sub] && { accountId: sub, claims: () => claimsOf(sub) },
    extraTokenClaims: (_, token) => (token.accountId ? claimsOf(token.accountId) : undefined),
    ttl: {
      AccessToken: () => settings.accessTtl,
      AuthorizationCode: 60,
      DeviceCode: () => settings.deviceTtl ?? 600,
      Grant: 86400,
      IdToken: 3600,
      Interaction: 600,
      RefreshToken: 86400,
      Session: 86400,
    },
    cookies: { keys: ['only for tests'] },
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    renderError: (ctx, out) => {
      ctx.type = 'html';
      ctx.body = pages.page('Error', `<p id="error">${out.error}: ${out.error_description ?? ''}</p>`);
    },
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: (_, client) => client.clientId === service },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: false },
      deviceFlow: {
        enabled: true,
        userCodeInputSource: (ctx, form, _, error) => { ctx.body = pages.userCodePage(form, error); },
        userCodeConfirmSource: (ctx, form, client, _, code) => {
          ctx.body = pages.confirmCodePage(form, client.clientId, code);
        },
        successSource: (ctx) => { ctx.body = pages.page('Done', '<p id="done">You are signed in.</p>'); },
      },
      resourceIndicators: {
        enabled: !settings.globus,
        useGrantedResource: () => true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_, indicator) => resourceServer(indicator),
      },
    },
  });
  if (settings.globus) provider.use(globusAnswers(provider, service, people));
  handle = provider.callback();
}

async function body(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}

function html(response, content) {
  response.setHeader('content-type', 'text/html; charset=utf-8');
  response.end(content);
}

async function interaction(request, response, uid, step) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (request.method === 'GET') {
    html(response, prompt.name === 'login'
      ? pages.loginPage(uid)
      : pages.consentPage(uid, params.client_id, params.scope));
  } else if (step === 'login') {
    const form = new URLSearchParams(await body(request));
    const found = Object.entries(people).find(([, one]) => one.username === form.get('login'));
    if (!found || found[1].password !== form.get('password')) {
      html(response, pages.loginPage(uid, true));
      return;
    }
    await provider.interactionFinished(request, response, { login: { accountId: found[0] } });
  } else if (step === 'abort') {
    const refused = { error: 'access_denied', error_description: 'the person said no' };
    await provider.interactionFinished(request, response, refused);
  } else {
    const grant = (grantId && await provider.Grant.find(grantId))
      || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    const { missingOIDCScope, missingOIDCClaims, missingResourceScopes } = prompt.details;
    if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(' '));
    if (missingOIDCClaims) grant.addOIDCClaims(missingOIDCClaims);
    for (const [indicator, scopes] of Object.entries(missingResourceScopes ?? {})) {
      grant.addResourceScope(indicator, scopes.join(' '));
    }
    const consent = { grantId: await grant.save() };
    await provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
  }
}

/** Make an access token as a login would, by the provider's own means. */
async function makeToken({ sub, scope, resource, ttl, kind = 'AccessToken' }) {
  const client = await provider.Client.find(publicClient);
  const grant = new provider.Grant({ accountId: sub, clientId: publicClient });
  if (resource) grant.addResourceScope(resource, scope); else grant.addOIDCScope(scope);
  const token = new provider[kind]({
    accountId: sub, client, grantId: await grant.save(), scope, gty: 'authorization_code', expiresIn: ttl,
  });
  if (resource && kind === 'AccessToken') {
    token.resourceServer = new provider.ResourceServer(resource, resourceServer(resource));
    token.extra = claimsOf(sub);
  } else if (resource) {
    token.resource = resource;
  }
  return { token: await token.save() };
}

async function sign({ claims, header = {}, foreign = false }) {
  const [, own] = keys;
  const key = foreign ? (await newKeys())[1] : own;
  const token = await new jose.SignJWT(claims)
    .setProtectedHeader({ alg: 'ES256', kid: own.kid, ...header })
    .sign(await jose.importJWK(key, 'ES256'));
  return { token };
}

const commands = {
  token: makeToken,
  sign,
  counts: () => counts,
  hang: ({ on }) => { hanging = on; },
  settings: (changes) => { Object.assign(settings, changes); },
  rotate: async ({ keep }) => {
    const made = await newKeys();
    keys = keep ? [...made, ...keys] : made;
    await make();
  },
  revoke: async ({ token }) => { await (await provider.AccessToken.find(token))?.destroy(); },
};

server.on('request', async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, issuer);
  const [, first, second, third] = pathname.split('/');
  try {
    if (first === 'test') {
      const result = await commands[second](JSON.parse(await body(request) || '{}'));
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(result ?? {}));
      return;
    }
    counts[pathname] = (counts[pathname] ?? 0) + 1;
    if (hanging) return;
    if (first === 'interaction') {
      await interaction(request, response, second, third);
    } else if (pathname === '/v2/web/auth-code') {
      html(response, pages.codePage(searchParams.get('code') ?? searchParams.get('error')));
    } else {
      handle(request, response);
    }
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    response.end(`${error} ${error.error_description ?? ''}`);
  }
});

// by stdin, as nobody can be told by the port that is closed
lines.on('line', async (command) => {
  if (command === 'away') {
    server.close();
    server.closeAllConnections();
  } else {
    server.listen(Number(new URL(issuer).port), '127.0.0.1');
    await once(server, 'listening');
  }
  console.log(command);
});

keys = await newKeys();
await make();
console.log(JSON.stringify({ issuer }));
