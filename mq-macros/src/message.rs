//! `#[derive(Message)]`: topic, tag and key of a payload type. Not here: how a body is written;
//! that is serde's.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::ParseStream;
use syn::{Attribute, Data, DeriveInput, Error, Fields, Ident, LitStr, Result};

use crate::attr::{self, Args, Mistakes};

const KNOWN: &[&str] = &["topic", "tag", "key"];

pub(crate) fn expand(item: TokenStream) -> TokenStream {
    syn::parse2(item).and_then(|input| implement(&input)).unwrap_or_else(Error::into_compile_error)
}

fn implement(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    if !input.generics.params.is_empty() {
        let text = "a message type cannot be generic: one type is one kind of message";
        return Err(Error::new_spanned(&input.generics, text));
    }
    let args = arguments(&input.attrs, name)?;
    let mut mistakes = Mistakes::default();
    let topic = mistakes.take(topic(&args, name));
    let tag = mistakes.take(tag(&args)).flatten();
    let key = mistakes.take(key(&args, &input.data)).flatten();
    mistakes.finish()?;
    let tag = match tag {
        Some(tag) => quote!(::core::option::Option::Some(#tag)),
        None => quote!(::core::option::Option::None),
    };
    let key = key.map(|field| {
        quote! {
            fn key(&self) -> ::core::option::Option<::std::string::String> {
                ::core::option::Option::Some(::std::string::ToString::to_string(&self.#field))
            }
        }
    });
    Ok(quote! {
        impl ::common_mq::__private::Message for #name {
            const TOPIC: &'static str = #topic;
            const TAG: ::core::option::Option<&'static str> = #tag;
            #key
        }
    })
}

fn arguments(attributes: &[Attribute], name: &Ident) -> Result<Args> {
    let mut found = attributes.iter().filter(|attribute| attribute.path().is_ident("message"));
    let Some(first) = found.next() else {
        let text = "a message type names its topic: `#[message(topic = \"...\")]`";
        return Err(Error::new_spanned(name, text));
    };
    if let Some(second) = found.next() {
        return Err(Error::new_spanned(second, "`#[message]` is given twice; keep one"));
    }
    first.parse_args_with(|input: ParseStream<'_>| Args::parse(input, KNOWN))
}

fn topic(args: &Args, name: &Ident) -> Result<LitStr> {
    let topic = args.text("topic")?.ok_or_else(|| {
        Error::new_spanned(name, "a message type names its topic: `#[message(topic = \"...\")]`")
    })?;
    if attr::is_template(&topic) {
        let text = "the topic of a message type is fixed; `${...}` belongs to a listener's `topic`";
        return Err(Error::new_spanned(topic, text));
    }
    attr::check_topic(&topic)?;
    Ok(topic)
}

fn tag(args: &Args) -> Result<Option<LitStr>> {
    let tag = args.text("tag")?;
    tag.as_ref().map_or(Ok(()), attr::check_tag)?;
    Ok(tag)
}

/// The field whose text becomes the message key.
fn key(args: &Args, data: &Data) -> Result<Option<Ident>> {
    let Some(key) = args.text("key")? else { return Ok(None) };
    let Data::Struct(structure) = data else {
        return Err(Error::new_spanned(key, "`key` names a field, so it needs a struct"));
    };
    let Fields::Named(fields) = &structure.fields else {
        return Err(Error::new_spanned(key, "`key` names a field, so it needs named fields"));
    };
    let names: Vec<&Ident> = fields.named.iter().filter_map(|f| f.ident.as_ref()).collect();
    if let Some(name) = names.iter().find(|name| ***name == *key.value()) {
        return Ok(Some((*name).clone()));
    }
    let known: Vec<String> = names.iter().map(ToString::to_string).collect();
    let text = match attr::nearest(&key.value(), known.iter().map(String::as_str)) {
        Some(near) => format!("no field `{}`; did you mean `{near}`?", key.value()),
        None => format!("no field `{}`; fields are: {}", key.value(), known.join(", ")),
    };
    Err(Error::new_spanned(key, text))
}
