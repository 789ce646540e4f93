//! `#[mq_listener]`: checks of the annotated function and the definition that stands beside it. The
//! function itself is given back unchanged. Not here: anything that could be a function of
//! `mq-core`; the start-up checks that need the whole program.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{FnArg, ItemFn, LitStr, Receiver, ReceiverKind, Result, ReturnType};
use syn::{Signature, Type};

use crate::attr::{self, Args, Mistakes};

const KNOWN: &[&str] =
    &["topic", "group", "tags", "sql", "concurrency", "id", "autostart", "phase"];

/// The arguments of one `#[mq_listener(...)]`, checked as far as literals can be.
pub(crate) struct Declared {
    topic: Option<LitStr>,
    group: LitStr,
    tags: Option<LitStr>,
    sql: Option<LitStr>,
    id: Option<LitStr>,
    concurrency: Option<LitStr>,
    autostart: Option<LitStr>,
    phase: i32,
}

impl Declared {
    pub(crate) fn parse(tokens: TokenStream) -> Result<Self> {
        let args = (|input: ParseStream<'_>| Args::parse(input, KNOWN)).parse2(tokens)?;
        let mut mistakes = Mistakes::default();
        let mut text = |name, check: fn(&LitStr) -> Result<()>| {
            let text = mistakes.take(args.text(name)).flatten();
            text.inspect(|text| _ = mistakes.take(check(text)))
        };
        let topic = text("topic", attr::check_topic);
        let group = text("group", attr::check_group);
        let tags = text("tags", attr::check_tags);
        let sql = text("sql", attr::check_sql);
        let id = text("id", attr::check_group);
        let autostart = text("autostart", |_| Ok(()));
        let concurrency = mistakes.take(args.count("concurrency")).flatten();
        let phase = mistakes.take(args.number("phase")).unwrap_or_default();
        if let (Some(_), Some(sql)) = (&tags, &sql) {
            let mend = "`tags` and `sql` exclude each other; write `sql = \"TAGS = 'a' AND ...\"`";
            mistakes.add(sql, mend);
        }
        mistakes.finish()?;
        let group = group.ok_or_else(|| {
            let text = "a listener needs its consumer group: `group = \"...\"`";
            syn::Error::new(Span::call_site(), text)
        })?;
        Ok(Declared { topic, group, tags, sql, id, concurrency, autostart, phase })
    }
}

/// A free function with its definition beside it.
pub(crate) fn expand(arguments: TokenStream, item: &TokenStream) -> TokenStream {
    let checked = syn::parse2::<ItemFn>(item.clone())
        .map_err(|_| {
            let text = "`#[mq_listener]` stands on an async function, or on a method of a \
                        `#[component]` impl";
            syn::Error::new(Span::call_site(), text)
        })
        .and_then(|function| free_function(arguments, &function));
    match checked {
        Ok(definition) => quote! { #item #definition },
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #item #error }
        }
    }
}

fn free_function(arguments: TokenStream, function: &ItemFn) -> Result<TokenStream> {
    let signature = &function.sig;
    if let Some(receiver) = signature.receiver() {
        return Err(syn::Error::new_spanned(
            receiver,
            "a listener on a method needs `#[component]` on the impl block",
        ));
    }
    check_signature(signature)?;
    let declared = Declared::parse(arguments)?;
    let name = &signature.ident;
    let (visibility, hidden) = (&function.vis, hidden_name(name));
    let conditions = attr::conditions(&function.attrs);
    let definition = definition(&declared, signature, &quote!(#name), None);
    Ok(quote! {
        #(#conditions)*
        #[doc(hidden)]
        #[allow(dead_code, non_upper_case_globals, reason = "named after the listener")]
        #visibility const #hidden: &'static ::common_mq::__private::ListenerDef = {
            #definition
            &__MQ_DEFINITION
        };
    })
}

/// The constant that `def!` finds beside a listener or factory.
pub(crate) fn hidden_name(function: &Ident) -> Ident {
    format_ident!("__mq_def_{}", function)
}

/// Rules for every listener, function or method.
pub(crate) fn check_signature(signature: &Signature) -> Result<()> {
    let mut mistakes = Mistakes::default();
    if signature.asyncness.is_none() {
        mistakes.add(signature.fn_token, "a listener is an `async fn`; put `async` before `fn`");
    }
    if !signature.generics.params.is_empty() {
        mistakes.add(
            &signature.generics,
            "a listener cannot be generic; write one listener for each payload type",
        );
    }
    for argument in &signature.inputs {
        let FnArg::Typed(argument) = argument else { continue };
        match &*argument.ty {
            Type::Reference(reference) => {
                mistakes.add(reference, "a listener takes its parameters by value; remove the `&`")
            }
            Type::ImplTrait(implied) => {
                mistakes.add(implied, "a listener names the type of each parameter");
            }
            _ => {}
        }
    }
    mistakes.finish()
}

/// A component is shared by its listeners and hooks, so `&self` is the only receiver.
pub(crate) fn check_receiver(signature: &Signature, what: &str) -> Result<()> {
    let shared = |receiver: &Receiver| {
        matches!(receiver.kind, ReceiverKind::Reference(_, _, None))
            && receiver.mutability.is_none()
    };
    match signature.receiver() {
        Some(receiver) if shared(receiver) => Ok(()),
        Some(receiver) => Err(syn::Error::new_spanned(
            receiver,
            format!(
                "a component is shared, so a {what} takes `&self`; keep what changes in a lock"
            ),
        )),
        None => Err(syn::Error::new_spanned(
            &signature.ident,
            format!("a {what} of a component takes `&self` as its first parameter"),
        )),
    }
}

/// Statements that define `__MQ_DEFINITION`, register it, and check what the compiler can check.
pub(crate) fn definition(
    declared: &Declared,
    signature: &Signature,
    function: &TokenStream,
    owner: Option<&Type>,
) -> TokenStream {
    let name = &signature.ident;
    let types: Vec<&Type> = signature.inputs.iter().filter_map(typed).collect();
    let parts = types
        .iter()
        .map(|ty| quote_spanned!(ty.span()=> <#ty as ::common_mq::__private::FromDelivery>::PART));
    let call = call(signature, &types, function, owner);
    let fields = fields(declared, name, owner);
    let checks = checks(declared, name);
    let place = place(name);
    quote! {
        use ::common_mq::__private as __mq;
        const __MQ_PARTS: &[__mq::Part] = &[#(#parts),*];
        #call
        static __MQ_DEFINITION: __mq::ListenerDef = __mq::ListenerDef {
            #fields
            parts: __MQ_PARTS,
            call: __mq_call,
            place: #place,
        };
        __mq::register!(__mq::Definition::Listener(&__MQ_DEFINITION));
        #checks
    }
}

fn typed(argument: &FnArg) -> Option<&Type> {
    match argument {
        FnArg::Typed(argument) => Some(&argument.ty),
        FnArg::Receiver(_) => None,
    }
}

/// Where the user wrote the item: `line!()` under the span of its name.
pub(crate) fn place(name: &Ident) -> TokenStream {
    let line = quote_spanned!(name.span()=> line!());
    quote! {
        __mq::Place { module: module_path!(), file: file!(), line: #line }
    }
}

fn fields(declared: &Declared, name: &Ident, owner: Option<&Type>) -> TokenStream {
    let Declared { topic, group, tags, sql, id, concurrency, autostart, phase } = declared;
    let (topic, tags, id) = (option(topic.as_ref()), option(tags.as_ref()), option(id.as_ref()));
    let sql = option(sql.as_ref());
    let (concurrency, autostart) = (option(concurrency.as_ref()), option(autostart.as_ref()));
    let owner_of = owner.map(|owner| quote!(<#owner as __mq::Component>::definition));
    let owner_of = option(owner_of.as_ref());
    let name = match owner {
        Some(owner) => format!("{}::{name}", quote!(#owner)).replace(' ', ""),
        None => name.to_string(),
    };
    quote! {
        name: #name,
        topic: #topic,
        group: #group,
        tags: #tags,
        sql: #sql,
        id: #id,
        concurrency: #concurrency,
        autostart: #autostart,
        owner: #owner_of,
        phase: #phase,
    }
}

pub(crate) fn option<T: quote::ToTokens>(value: Option<&T>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// `fn __mq_call`: take each parameter out of the delivery, then call the user's function.
fn call(
    signature: &Signature,
    types: &[&Type],
    function: &TokenStream,
    owner: Option<&Type>,
) -> TokenStream {
    let names: Vec<Ident> =
        (0..types.len()).map(|at| format_ident!("__mq_argument_{at}")).collect();
    let takes = types.iter().zip(&names).map(|(ty, name)| {
        quote_spanned! {ty.span()=>
            let #name =
                <#ty as ::common_mq::__private::FromDelivery>::from_delivery(
                    __mq_delivery, __mq_scope,
                )?;
        }
    });
    let bean = owner.map(|owner| quote!(let __mq_owner = __mq::owner::<#owner>(__mq_scope);));
    let this = owner.map(|_| quote!(&__mq_owner,));
    let output_span = match &signature.output {
        ReturnType::Default => signature.ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let outcome = quote_spanned! {output_span=>
        ::core::result::Result::Ok(
            ::common_mq::__private::IntoOutcome::into_outcome(__mq_output)
        )
    };
    let boxed = quote_spanned!(signature.ident.span()=> ::std::boxed::Box::pin);
    quote! {
        fn __mq_call<'a>(
            __mq_scope: &'a __mq::Scope,
            __mq_delivery: &'a __mq::Delivery,
        ) -> __mq::Handling<'a> {
            #boxed(async move {
                #bean
                #(#takes)*
                let __mq_output = #function(#this #(#names),*).await;
                #outcome
            })
        }
    }
}

/// What can be decided once the parameters' types are known.
fn checks(declared: &Declared, name: &Ident) -> TokenStream {
    let two = format!("`{name}` takes two message payloads; a listener receives one");
    let bodies = quote_spanned! {name.span()=>
        const _: () = ::core::assert!(__mq::bodies(__MQ_PARTS) <= 1, #two);
    };
    let topic = match &declared.topic {
        None => {
            let text = format!(
                "`{name}` has no topic: write `topic = \"...\"`, or take a payload whose type has \
                 `#[derive(Message)]`"
            );
            quote_spanned! {name.span()=>
                const _: () = ::core::assert!(__mq::names_topic(__MQ_PARTS), #text);
            }
        }
        Some(topic) if attr::is_template(topic) => TokenStream::new(),
        Some(topic) => {
            let text = format!(
                "the payload of `{name}` belongs to another topic than `{}`: remove `topic`, or \
                 take `Json<..>` of the payload",
                topic.value()
            );
            quote_spanned! {topic.span()=>
                const _: () = ::core::assert!(__mq::agrees(__MQ_PARTS, #topic), #text);
            }
        }
    };
    quote! { #bodies #topic }
}
