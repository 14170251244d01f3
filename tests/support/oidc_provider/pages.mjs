// The provider's pages: its own would fetch fonts from elsewhere.

const escape = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

export const page = (title, body) => `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>${escape(title)}</title></head>
<body><h1>${escape(title)}</h1>${body}</body></html>`;

export const loginPage = (uid, wrong) => page('Sign in', `
${wrong ? '<p id="wrong">Name or password is wrong.</p>' : ''}
<form method="post" action="/interaction/${escape(uid)}/login">
<label>Name <input name="login" autofocus></label>
<label>Password <input name="password" type="password"></label>
<button type="submit">Sign in</button></form>`);

export const consentPage = (uid, client, scopes) => page('Allow access', `
<p>${escape(client)} wants: <span id="scopes">${escape(scopes)}</span></p>
<form method="post" action="/interaction/${escape(uid)}/confirm"><button type="submit">Allow</button></form>
<form method="post" action="/interaction/${escape(uid)}/abort"><button type="submit">Deny</button></form>`);

export const codePage = (code) => page('Your code', `<p id="code">${escape(code)}</p>`);

export const userCodePage = (form, wrong) => page('Enter the code', `
${wrong ? '<p id="wrong">That code is not right.</p>' : ''}${form}
<button type="submit" form="op.deviceInputForm">Continue</button>`);

export const confirmCodePage = (form, client, code) => page('Confirm the code', `
<p>${escape(client)}: <code>${escape(code)}</code></p>${form}
<button autofocus type="submit" form="op.deviceConfirmForm">Continue</button>`);
